"""`python -m goc.report PATH...`."""

import sys

from goc.report.study import main

sys.exit(main())
