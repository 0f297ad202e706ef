"""Corpora of what is damaged or made to harm, and the child processes in which it is opened."""
