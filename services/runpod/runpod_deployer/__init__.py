"""Puts the lab on RunPod: its own small client of REST API v2, and what runs as process 1 of a pod.

Not called `runpod`: that name is the vendor's SDK. It imports `shared` and no other room.
"""
