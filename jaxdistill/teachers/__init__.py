"""Teachers, one file each: sources of the signal that a student learns from."""

from jaxdistill.config import Registry

TEACHERS = Registry("teacher", package="jaxdistill.teachers")

from jaxdistill.teachers.online import OnlineTeacher as OnlineTeacher  # noqa: E402
