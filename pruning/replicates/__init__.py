"""Replicates of a job under several seeds: their jobs, and one report that pools them"""
