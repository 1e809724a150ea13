"""`python -m jaxdistill` is `jaxdistill`."""

from jaxdistill.cli import main

raise SystemExit(main())
