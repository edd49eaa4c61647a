"""Checks the Kubernetes manifests against the schemas of Kubernetes 1.37 and 1.33, unknown fields included.

usage: python manifests.py
"""

import glob
import os

import kubernetes_validate
import yaml

MANIFESTS = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "kubernetes", "*.yaml")


def main():
    kinds = []
    for path in sorted(glob.glob(MANIFESTS)):
        with open(path) as file:
            for manifest in yaml.safe_load_all(file):
                for version in ("1.33", "1.37"):
                    kubernetes_validate.validate(manifest, version, strict=True)
                kinds.append(manifest["kind"])
    assert kinds == ["Job", "Deployment", "Service", "HorizontalPodAutoscaler"], kinds
    print(f"{', '.join(kinds)}: ok")


if __name__ == "__main__":
    main()
