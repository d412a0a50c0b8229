"""Tests whether a program resumes exactly: compares a straight run with one that is killed and resumed."""
