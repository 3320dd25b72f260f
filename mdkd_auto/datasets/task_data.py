"""How the raw data sets of each task are read, one entry per task."""

from mdkd_auto.core.records import ByTask
from mdkd_auto.datasets.dataset_json import TaskData, box_labels, class_labels, mask_labels
from mdkd_auto.datasets.truth.boxes import read_boxed
from mdkd_auto.datasets.truth.classes import read_classified
from mdkd_auto.datasets.truth.masks import read_segmented

TASK_DATA = ByTask(
    {
        "segmentation": TaskData(mask_labels, read_segmented, masks=True),
        "classification": TaskData(
            class_labels,
            read_classified,
            label_value=lambda case, dataset: dataset.labels[str(case.class_name)][0],
            compare_pictures=True,
            class_folders=True,
        ),
        "detection": TaskData(box_labels, read_boxed),
    }
)
