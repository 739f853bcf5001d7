"""How fast it is: the floor, this project and Buildbot in turn, on one repository and engine."""
