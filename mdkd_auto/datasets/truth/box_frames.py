"""Resolve the frame of boxes: images are read upright, but annotations may refer to the image as stored."""

from collections.abc import Mapping

from mdkd_auto.core.errors import ImageError
from mdkd_auto.datasets.image_files import ImageFiles
from mdkd_auto.datasets.problems import names_shown
from mdkd_auto.datasets.truth.annotations import Annotated
from mdkd_auto.formats.exif import UPRIGHT, Frame, Size, turn_box
from mdkd_auto.formats.file_endings import is_planar


def read_frames(image_files: ImageFiles, listed: Mapping[str, Annotated]) -> dict[str, Frame]:
    """Read each case's frame from file headers, if readable.

    Reports images whose size differs from their annotations or from the case's other channel.
    """
    frames = {case_id: _frame(image_files, case_id, listed.get(case_id)) for case_id in sorted(image_files.files)}
    return {case_id: frame for case_id, frame in frames.items() if frame is not None}


def drawn_sizes(frames: Mapping[str, Frame], listed: Mapping[str, Annotated]) -> dict[str, Size | None]:
    """Size of the image on which each case's boxes were drawn; None if unreadable."""
    sizes: dict[str, Size | None] = {}
    for case_id, annotated in listed.items():
        frame = frames.get(case_id)
        sizes[case_id] = None if frame is None else frame.stored if annotated.size == frame.stored else frame.upright
    return sizes


def upright_size(frames: Mapping[str, Frame], case_id: str) -> Size | None:
    """Size of the case's image as it is read; None if unreadable."""
    return frames[case_id].upright if case_id in frames else None


def turn_upright(
    image_files: ImageFiles, listed: Mapping[str, Annotated], frames: Mapping[str, Frame]
) -> dict[str, Annotated]:
    """Convert annotations to upright images: boxes are rotated if the stated size is that of the stored image.

    Reports once per data set which boxes were rotated, and which images have no size to decide it.
    """
    upright, turned, unsure = dict(listed), [], []
    for case_id, frame in frames.items():
        annotated = listed.get(case_id)
        if annotated is None or frame.orientation == UPRIGHT or not annotated.boxes:
            continue
        if frame.stored == frame.upright or annotated.size is None:
            unsure.append(case_id)
        elif annotated.size == frame.stored:
            turned.append(case_id)
            upright[case_id] = _turned(annotated, frame)
    if turned:
        message = "the annotations state sizes of images as stored, before EXIF turns them; boxes are turned along"
        image_files.report("exif-boxes-turned", f"{message}: {names_shown(turned)}", image_files.folder)
    if unsure:
        message = f"EXIF turns images, and no stated size tells whether their boxes are turned: {names_shown(unsure)}"
        image_files.report("exif-boxes-unsure", message, image_files.folder)
    return upright


def _frame(image_files: ImageFiles, case_id: str, annotated: Annotated | None) -> Frame | None:
    """Frame of the case's first image; reports differences between channels or from the annotations."""
    from mdkd_auto.formats.planar import planar_frame  # needs numpy

    first: Frame | None = None
    stated = None if annotated is None else annotated.size
    for path in image_files.files[case_id].values():
        if not is_planar(path):
            continue
        try:
            frame = planar_frame(path)
        except ImageError as error:
            image_files.report(error.kind, str(error), path, case_id)
            continue
        first = first or frame
        if stated is not None and stated not in {frame.upright, frame.stored}:
            image_files.report("image-size", _differs(frame, stated, "the annotations say"), path, case_id)
        elif frame.upright != first.upright:
            image_files.report("image-size", _differs(frame, first.upright, "its other channel is"), path, case_id)
    return first


def _differs(frame: Frame, stated: Size, by: str) -> str:
    width, height = frame.upright
    turned = f" once EXIF orientation {frame.orientation} turns it upright" if frame.orientation != UPRIGHT else ""
    return f"is {width} x {height} pixels{turned}, not {stated[0]} x {stated[1]} as {by}"


def _turned(annotated: Annotated, frame: Frame) -> Annotated:
    spacing = annotated.spacing_mm
    if spacing is not None and frame.stored != frame.upright:
        spacing = (spacing[0], spacing[2], spacing[1])
    boxes = tuple(turn_box(box, frame) for box in annotated.boxes)
    return annotated._replace(boxes=boxes, size=frame.upright, spacing_mm=spacing)
