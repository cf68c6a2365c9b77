"""`python -m fedjax_mri` is `fedjax-mri`."""

import sys

from fedjax_mri.cli import main

sys.exit(main())
