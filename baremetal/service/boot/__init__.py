"""What machines are told while they netboot, what they report, and what is seen of them meanwhile."""
