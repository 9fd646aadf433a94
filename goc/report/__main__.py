"""`python -m goc.report PATH...`, and `python -m goc.report compare RUN RUN`."""

import sys

from goc.report import compare, study

if sys.argv[1:2] == ["compare"]:
    sys.exit(compare.main(sys.argv[2:]))
sys.exit(study.main())
