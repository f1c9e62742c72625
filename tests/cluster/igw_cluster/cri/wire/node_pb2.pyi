from collections.abc import Iterable as _Iterable
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper

from igw_cluster.cri.wire import cri_pb2 as _cri_pb2

DESCRIPTOR: _descriptor.FileDescriptor

class CgroupDriver(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SYSTEMD: _ClassVar[CgroupDriver]
    CGROUPFS: _ClassVar[CgroupDriver]

SYSTEMD: CgroupDriver
CGROUPFS: CgroupDriver

class VersionResponse(_message.Message):
    __slots__ = ("runtime_api_version", "runtime_name", "runtime_version", "version")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_NAME_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_API_VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    runtime_name: str
    runtime_version: str
    runtime_api_version: str
    def __init__(
        self,
        version: str | None = ...,
        runtime_name: str | None = ...,
        runtime_version: str | None = ...,
        runtime_api_version: str | None = ...,
    ) -> None: ...

class RuntimeCondition(_message.Message):
    __slots__ = ("message", "reason", "status", "type")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    type: str
    status: bool
    reason: str
    message: str
    def __init__(
        self,
        type: str | None = ...,
        status: bool | None = ...,
        reason: str | None = ...,
        message: str | None = ...,
    ) -> None: ...

class RuntimeStatus(_message.Message):
    __slots__ = ("conditions",)
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    conditions: _containers.RepeatedCompositeFieldContainer[RuntimeCondition]
    def __init__(self, conditions: _Iterable[RuntimeCondition | _Mapping] | None = ...) -> None: ...

class RuntimeFeatures(_message.Message):
    __slots__ = ("supplemental_groups_policy",)
    SUPPLEMENTAL_GROUPS_POLICY_FIELD_NUMBER: _ClassVar[int]
    supplemental_groups_policy: bool
    def __init__(self, supplemental_groups_policy: bool | None = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("features", "status")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    status: RuntimeStatus
    features: RuntimeFeatures
    def __init__(
        self,
        status: RuntimeStatus | _Mapping | None = ...,
        features: RuntimeFeatures | _Mapping | None = ...,
    ) -> None: ...

class LinuxRuntimeConfiguration(_message.Message):
    __slots__ = ("cgroup_driver",)
    CGROUP_DRIVER_FIELD_NUMBER: _ClassVar[int]
    cgroup_driver: CgroupDriver
    def __init__(self, cgroup_driver: CgroupDriver | str | None = ...) -> None: ...

class RuntimeConfigResponse(_message.Message):
    __slots__ = ("linux",)
    LINUX_FIELD_NUMBER: _ClassVar[int]
    linux: LinuxRuntimeConfiguration
    def __init__(self, linux: LinuxRuntimeConfiguration | _Mapping | None = ...) -> None: ...

class CpuUsage(_message.Message):
    __slots__ = ("timestamp", "usage_core_nano_seconds")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    USAGE_CORE_NANO_SECONDS_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    usage_core_nano_seconds: _cri_pb2.UInt64Value
    def __init__(
        self,
        timestamp: int | None = ...,
        usage_core_nano_seconds: _cri_pb2.UInt64Value | _Mapping | None = ...,
    ) -> None: ...

class MemoryUsage(_message.Message):
    __slots__ = ("rss_bytes", "timestamp", "usage_bytes", "working_set_bytes")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    WORKING_SET_BYTES_FIELD_NUMBER: _ClassVar[int]
    USAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    working_set_bytes: _cri_pb2.UInt64Value
    usage_bytes: _cri_pb2.UInt64Value
    rss_bytes: _cri_pb2.UInt64Value
    def __init__(
        self,
        timestamp: int | None = ...,
        working_set_bytes: _cri_pb2.UInt64Value | _Mapping | None = ...,
        usage_bytes: _cri_pb2.UInt64Value | _Mapping | None = ...,
        rss_bytes: _cri_pb2.UInt64Value | _Mapping | None = ...,
    ) -> None: ...

class ProcessUsage(_message.Message):
    __slots__ = ("process_count", "timestamp")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PROCESS_COUNT_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    process_count: _cri_pb2.UInt64Value
    def __init__(
        self, timestamp: int | None = ..., process_count: _cri_pb2.UInt64Value | _Mapping | None = ...
    ) -> None: ...

class ContainerAttributes(_message.Message):
    __slots__ = ("annotations", "id", "labels", "metadata")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: str | None = ..., value: str | None = ...) -> None: ...

    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: str | None = ..., value: str | None = ...) -> None: ...

    ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    metadata: _cri_pb2.ContainerMetadata
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    def __init__(
        self,
        id: str | None = ...,
        metadata: _cri_pb2.ContainerMetadata | _Mapping | None = ...,
        labels: _Mapping[str, str] | None = ...,
        annotations: _Mapping[str, str] | None = ...,
    ) -> None: ...

class ContainerStats(_message.Message):
    __slots__ = ("attributes", "cpu", "memory")
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    attributes: ContainerAttributes
    cpu: CpuUsage
    memory: MemoryUsage
    def __init__(
        self,
        attributes: ContainerAttributes | _Mapping | None = ...,
        cpu: CpuUsage | _Mapping | None = ...,
        memory: MemoryUsage | _Mapping | None = ...,
    ) -> None: ...

class PodSandboxAttributes(_message.Message):
    __slots__ = ("annotations", "id", "labels", "metadata")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: str | None = ..., value: str | None = ...) -> None: ...

    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: str | None = ..., value: str | None = ...) -> None: ...

    ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    metadata: _cri_pb2.PodSandboxMetadata
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    def __init__(
        self,
        id: str | None = ...,
        metadata: _cri_pb2.PodSandboxMetadata | _Mapping | None = ...,
        labels: _Mapping[str, str] | None = ...,
        annotations: _Mapping[str, str] | None = ...,
    ) -> None: ...

class LinuxPodSandboxStats(_message.Message):
    __slots__ = ("containers", "cpu", "memory", "process")
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    cpu: CpuUsage
    memory: MemoryUsage
    process: ProcessUsage
    containers: _containers.RepeatedCompositeFieldContainer[ContainerStats]
    def __init__(
        self,
        cpu: CpuUsage | _Mapping | None = ...,
        memory: MemoryUsage | _Mapping | None = ...,
        process: ProcessUsage | _Mapping | None = ...,
        containers: _Iterable[ContainerStats | _Mapping] | None = ...,
    ) -> None: ...

class PodSandboxStats(_message.Message):
    __slots__ = ("attributes", "linux")
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    LINUX_FIELD_NUMBER: _ClassVar[int]
    attributes: PodSandboxAttributes
    linux: LinuxPodSandboxStats
    def __init__(
        self,
        attributes: PodSandboxAttributes | _Mapping | None = ...,
        linux: LinuxPodSandboxStats | _Mapping | None = ...,
    ) -> None: ...

class ContainerStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: ContainerStats
    def __init__(self, stats: ContainerStats | _Mapping | None = ...) -> None: ...

class ListContainerStatsRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: _cri_pb2.ContainerStatsFilter
    def __init__(self, filter: _cri_pb2.ContainerStatsFilter | _Mapping | None = ...) -> None: ...

class ListContainerStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: _containers.RepeatedCompositeFieldContainer[ContainerStats]
    def __init__(self, stats: _Iterable[ContainerStats | _Mapping] | None = ...) -> None: ...

class PodSandboxStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: PodSandboxStats
    def __init__(self, stats: PodSandboxStats | _Mapping | None = ...) -> None: ...

class PodSandboxStatsFilter(_message.Message):
    __slots__ = ("id", "label_selector")
    class LabelSelectorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: str | None = ..., value: str | None = ...) -> None: ...

    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_SELECTOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    label_selector: _containers.ScalarMap[str, str]
    def __init__(self, id: str | None = ..., label_selector: _Mapping[str, str] | None = ...) -> None: ...

class ListPodSandboxStatsRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: PodSandboxStatsFilter
    def __init__(self, filter: PodSandboxStatsFilter | _Mapping | None = ...) -> None: ...

class ListPodSandboxStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: _containers.RepeatedCompositeFieldContainer[PodSandboxStats]
    def __init__(self, stats: _Iterable[PodSandboxStats | _Mapping] | None = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("id", "pinned", "repo_digests", "repo_tags", "size", "spec", "uid", "username")
    ID_FIELD_NUMBER: _ClassVar[int]
    REPO_TAGS_FIELD_NUMBER: _ClassVar[int]
    REPO_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    id: str
    repo_tags: _containers.RepeatedScalarFieldContainer[str]
    repo_digests: _containers.RepeatedScalarFieldContainer[str]
    size: int
    uid: _cri_pb2.Int64Value
    username: str
    spec: _cri_pb2.ImageSpec
    pinned: bool
    def __init__(
        self,
        id: str | None = ...,
        repo_tags: _Iterable[str] | None = ...,
        repo_digests: _Iterable[str] | None = ...,
        size: int | None = ...,
        uid: _cri_pb2.Int64Value | _Mapping | None = ...,
        username: str | None = ...,
        spec: _cri_pb2.ImageSpec | _Mapping | None = ...,
        pinned: bool | None = ...,
    ) -> None: ...

class ImageFilter(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: _cri_pb2.ImageSpec
    def __init__(self, image: _cri_pb2.ImageSpec | _Mapping | None = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: ImageFilter
    def __init__(self, filter: ImageFilter | _Mapping | None = ...) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Iterable[Image | _Mapping] | None = ...) -> None: ...

class ImageRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: _cri_pb2.ImageSpec
    def __init__(self, image: _cri_pb2.ImageSpec | _Mapping | None = ...) -> None: ...

class ImageStatusResponse(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: Image
    def __init__(self, image: Image | _Mapping | None = ...) -> None: ...

class PullImageResponse(_message.Message):
    __slots__ = ("image_ref",)
    IMAGE_REF_FIELD_NUMBER: _ClassVar[int]
    image_ref: str
    def __init__(self, image_ref: str | None = ...) -> None: ...

class FilesystemIdentifier(_message.Message):
    __slots__ = ("mountpoint",)
    MOUNTPOINT_FIELD_NUMBER: _ClassVar[int]
    mountpoint: str
    def __init__(self, mountpoint: str | None = ...) -> None: ...

class FilesystemUsage(_message.Message):
    __slots__ = ("fs_id", "inodes_used", "timestamp", "used_bytes")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    FS_ID_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    INODES_USED_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    fs_id: FilesystemIdentifier
    used_bytes: _cri_pb2.UInt64Value
    inodes_used: _cri_pb2.UInt64Value
    def __init__(
        self,
        timestamp: int | None = ...,
        fs_id: FilesystemIdentifier | _Mapping | None = ...,
        used_bytes: _cri_pb2.UInt64Value | _Mapping | None = ...,
        inodes_used: _cri_pb2.UInt64Value | _Mapping | None = ...,
    ) -> None: ...

class ImageFsInfoResponse(_message.Message):
    __slots__ = ("container_filesystems", "image_filesystems")
    IMAGE_FILESYSTEMS_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FILESYSTEMS_FIELD_NUMBER: _ClassVar[int]
    image_filesystems: _containers.RepeatedCompositeFieldContainer[FilesystemUsage]
    container_filesystems: _containers.RepeatedCompositeFieldContainer[FilesystemUsage]
    def __init__(
        self,
        image_filesystems: _Iterable[FilesystemUsage | _Mapping] | None = ...,
        container_filesystems: _Iterable[FilesystemUsage | _Mapping] | None = ...,
    ) -> None: ...
