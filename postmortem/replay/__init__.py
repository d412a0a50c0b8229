"""Driving a program again: to prove that it resumes exactly, and (to come) to replay an incident."""
