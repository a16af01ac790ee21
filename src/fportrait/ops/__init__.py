"""What an orchestrator needs: MLflow runs, registry and gate, lineage, studies, ablations, the deps of dvc.yaml.

The one package that imports MLflow, Kedro or DVC.
"""
