"""Goals and their verdicts."""


def verdict(values, goal, at_most):
    """Whether every round's value meets the goal, the least or the most it may be."""
    missed = sum(value > goal if at_most else value < goal for value in values)
    words = f"NOT MET in {missed} of {len(values)}" if missed else "met"
    return f"goal: at {'most' if at_most else 'least'} {goal:g}, {words}"
