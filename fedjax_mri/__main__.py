"""`python -m fedjax_mri` is `fedjax-mri`."""

import sys

from fedjax_mri.cli.commands import main

sys.exit(main())
