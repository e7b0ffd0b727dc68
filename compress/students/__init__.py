"""Students: `build(teacher)` gives the module to be trained."""
