"""Many runs over axes of settings and seeds. It imports run and what run imports."""
