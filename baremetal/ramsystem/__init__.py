"""The RAM system that inspections, rescues and wipes boot, and the building material of all small systems made here."""
