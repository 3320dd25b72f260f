"""The paper's hyperparameters for classification, by data set."""

from typing import Any

# The tables give one learning rate for all students and no weight decay: students keep the teachers' weight decay.
_STUDENT = {"student_learning_rate": 1e-4}
_PULMONARY = {**_STUDENT, "joint_channels": 256, "joint_learning_rate": 1e-4, "architecture": "medvit_large"}
_CEREBRAL = {**_STUDENT, "dropout": 0.3, "joint_channels": 1024}
PRESETS: dict[str, dict[str, Any]] = {
    "covidx": {
        "learning_rate": 1e-5,
        "weight_decay": 1e-2,
        "classification": {**_PULMONARY, "joint_weight_decay": 0.0},
    },
    "rtpcr": {
        "learning_rate": 5e-5,
        "weight_decay": 1e-2,
        "classification": {**_PULMONARY, "joint_weight_decay": 1e-2},
    },
    "covid-qu-ex": {
        "learning_rate": 5e-5,
        "weight_decay": 0.5,
        "classification": {**_PULMONARY, "dropout": 0.3, "attention_dropout": 0.2, "joint_weight_decay": 1e-2},
    },
    "oasis": {
        "learning_rate": 1e-4,
        "weight_decay": 1e-2,
        "classification": {
            **_CEREBRAL,
            "architecture": "efficientnet_b0",
            "joint_learning_rate": 1e-5,
            "joint_weight_decay": 0.5,
        },
    },
    "adni": {
        "learning_rate": 1e-4,
        "weight_decay": 1e-2,
        "classification": {
            **_CEREBRAL,
            "architecture": "medvit_small",
            "attention_dropout": 0.2,
            "joint_learning_rate": 5e-5,
            "joint_weight_decay": 1e-2,
        },
    },
}
