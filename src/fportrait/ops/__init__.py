"""What only an orchestrator needs: MLflow runs, the registry and its gate, lineage, studies, ablations, dvc.yaml's deps.

The one package that imports MLflow, Kedro or DVC.
"""
