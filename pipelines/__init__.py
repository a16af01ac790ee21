"""Orchestration only: one package per pipeline, each one stage of `dvc.yaml`. Nodes are verbs that call the library."""
