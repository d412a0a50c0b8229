"""Driving a program again: to prove that it resumes exactly, and what an incident came from."""
