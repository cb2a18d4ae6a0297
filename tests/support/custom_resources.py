"""Schemas of the custom resources that deploy/k8s uses, of those fields that it uses and no more.

The operators' own definitions are a few thousand lines each and are in no package. Written down from their documents: a
misspelt or misplaced field is refused, and one that we do not use yet needs a line here first.
"""

from typing import Any

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
LABELS = {"type": "object", "additionalProperties": TEXT}
DURATION = {"type": "string", "pattern": r"^(\d+(ms|[smhdwy]))+$"}


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


def _resource(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _object(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=_object("name namespace", name=TEXT, namespace=TEXT, labels=LABELS),
        spec=spec,
    )


_SCALING = _object(
    "policies",
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    policies=_list(
        _object(
            "type value periodSeconds",
            type={"enum": ["Pods", "Percent"]},
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        )
    ),
)
_QUANTITIES = _object("cpu memory", cpu=TEXT, memory=TEXT)
_RULE = {
    **_object(
        "expr",
        record={"type": "string", "pattern": r"^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
        alert=TEXT,
        expr={"type": "string", "minLength": 1},
        labels=LABELS,
        annotations=LABELS,
        **{"for": DURATION},
    ),
    "oneOf": [{"required": ["record"]}, {"required": ["alert"]}],
}

SCHEMAS = {
    "RabbitmqCluster": _resource(
        "rabbitmq.com/v1beta1",
        "RabbitmqCluster",
        _object(
            "replicas image persistence resources",
            replicas=COUNT,
            image=TEXT,
            persistence=_object("storage", storage=TEXT, storageClassName=TEXT),
            resources=_object("requests limits", requests=_QUANTITIES, limits=_QUANTITIES),
            terminationGracePeriodSeconds=COUNT,
            rabbitmq=_object(additionalConfig=TEXT, additionalPlugins=_list(TEXT)),
            # The template is checked as that of a StatefulSet.
            override=_object(statefulSet=_object(spec=_object(template={"type": "object"}))),
        ),
    ),
    "ServiceMonitor": _resource(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        _object(
            "selector endpoints",
            selector=_object("matchLabels", matchLabels=LABELS),
            endpoints=_list(_object("port", port=TEXT, path=TEXT, interval=DURATION)),
        ),
    ),
    "PrometheusRule": _resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        _object("groups", groups=_list(_object("name rules", name=TEXT, interval=DURATION, rules=_list(_RULE)))),
    ),
    "ScaledObject": _resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        _object(
            "scaleTargetRef triggers",
            scaleTargetRef=_object("name", kind=TEXT, name=TEXT),
            pollingInterval=COUNT,
            cooldownPeriod=COUNT,
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            fallback=_object(
                "failureThreshold replicas",
                failureThreshold=COUNT,
                replicas=COUNT,
                behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
            ),
            advanced=_object(
                horizontalPodAutoscalerConfig=_object(behavior=_object(scaleUp=_SCALING, scaleDown=_SCALING))
            ),
            triggers=_list(
                _object(
                    "type metadata",
                    type={"const": "prometheus"},
                    metricType={"enum": ["AverageValue", "Value"]},
                    metadata=_object(
                        "serverAddress query threshold",
                        serverAddress={"type": "string", "pattern": "^https?://"},
                        query=TEXT,
                        threshold=TEXT,
                        activationThreshold=TEXT,
                        ignoreNullValues=TEXT,
                    ),
                )
            ),
        ),
    ),
}
"""Kind -> JSON schema."""
