"""Does a program resume exactly? A straight run against one that is killed and resumed, compared bit for bit."""
