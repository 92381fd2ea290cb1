"""From a set of row ops to loops: index arithmetic, the choice of what is stored, and the printed kernel."""
