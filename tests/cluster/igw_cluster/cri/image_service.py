"""The image service: which images there are. A pull only looks whether the image can be used."""

import time
from pathlib import Path

from igw_cluster.cri import answers
from igw_cluster.cri.grpc_table import Call
from igw_cluster.cri.images import ImageFile
from igw_cluster.cri.wire import cri_pb2 as pb
from igw_cluster.cri.wire import node_pb2 as node


class Images:
    """The calls of the image service."""

    def __init__(self, root: Path, images: ImageFile) -> None:
        self._root = root
        self._images = images

    def calls(self) -> dict[str, Call]:
        """The methods by name."""
        return {
            "ListImages": Call(node.ListImagesRequest, self._list),
            "ImageStatus": Call(node.ImageRequest, self._status),
            "PullImage": Call(node.ImageRequest, self._pull),
            "RemoveImage": Call(pb.Empty, self._remove),
            "ImageFsInfo": Call(pb.Empty, self._file_system),
        }

    def _list(self, request: node.ListImagesRequest) -> node.ListImagesResponse:
        wanted = request.filter.image.image
        if wanted:
            found = self._images.find(wanted)
            return node.ListImagesResponse(images=[answers.image(found)] if found else [])
        return node.ListImagesResponse(images=map(answers.image, self._images.all()))

    def _status(self, request: node.ImageRequest) -> node.ImageStatusResponse:
        """Without an image in the answer the kubelet pulls, and shows what is wrong."""
        found = self._images.find(request.image.image)
        if found is None or found.image.problem():
            return node.ImageStatusResponse()
        return node.ImageStatusResponse(image=answers.image(found))

    def _pull(self, request: node.ImageRequest) -> node.PullImageResponse:
        return node.PullImageResponse(image_ref=self._images.pull(request.image.image).id)

    def _remove(self, _: pb.Empty) -> pb.Empty:
        return pb.Empty()

    def _file_system(self, _: pb.Empty) -> node.ImageFsInfoResponse:
        usage = node.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=node.FilesystemIdentifier(mountpoint=str(self._root)),
            # Images take no space of their own; zero would count as unknown.
            used_bytes=pb.UInt64Value(value=1),
            inodes_used=pb.UInt64Value(value=1),
        )
        return node.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])
