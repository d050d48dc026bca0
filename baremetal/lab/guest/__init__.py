"""Full Debian guests for the lab: built from this machine's apt sources, without loop devices."""
