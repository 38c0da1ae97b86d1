"""Code that has not yet run on the hardware it is for. Interfaces here may change in any release."""
