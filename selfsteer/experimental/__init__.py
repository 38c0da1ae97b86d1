"""Research code, and code that has not run on its target hardware yet. Interfaces here may change in any release."""
