"""Teachers: where the signal comes from. One file a source; each says what it provides."""

from jaxdistill.config import Registry

TEACHERS = Registry("teacher", package="jaxdistill.teachers")

from jaxdistill.teachers.online import OnlineTeacher as OnlineTeacher  # noqa: E402
