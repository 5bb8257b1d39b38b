"""Say in one line why this Python cannot set up the project, if it cannot. Whatever Python that is must be able to read it."""

import os
import subprocess
import sys

ENVIRONMENT = ".venv/bin/python"
FIRST, LAST = (3, 11), (3, 13)  # what requirements.lock has TensorFlow for


def works(program):
    """Tell whether a program of this name can be called; on PATH may also lie what only says that it is not installed."""
    with open(os.devnull, "w") as nowhere:
        try:
            return subprocess.call([program, "-V"], stdout=nowhere, stderr=nowhere) == 0
        except OSError:
            return False


def other(goals):
    """Return the command with a Python that would do, one that is there if there is any."""
    known = [minor for minor in (12, 11, 13) if works("python3.%d" % minor) and (3, minor) != sys.version_info[:2]]
    minor = known[0] if known else 12 if sys.version_info[:2] != (3, 12) else 11
    return "%s: make PYTHON=python3.%d %s" % ("try" if known else "install another, then", minor, goals)


def trouble(called, goals):
    """Return what keeps this Python from setting up, None if nothing does."""
    version = "%d.%d.%d" % tuple(sys.version_info[:3])
    if not FIRST <= tuple(sys.version_info[:2]) <= LAST:
        wanted = "%d.%d to %d.%d" % (FIRST + LAST)
        return "Python %s is needed, and %s is Python %s; %s" % (wanted, called, version, other(goals))
    if called == ENVIRONMENT:
        return None
    try:
        import ensurepip
        import venv  # noqa: F401

        ensurepip.version()
    except (ImportError, AttributeError) as error:
        package = "python3-venv" if called == "python3" else "python%d.%d-venv" % tuple(sys.version_info[:2])
        lack = "%s (Python %s) cannot make a virtual environment (%s)" % (called, version, error)
        return "%s; on Debian and Ubuntu: apt install %s; or %s" % (lack, package, other(goals))
    return None


if __name__ == "__main__":
    found = trouble(sys.argv[1], " ".join(sys.argv[2:]))
    if found:
        sys.stderr.write("error: %s\n" % found)
        sys.exit(1)
