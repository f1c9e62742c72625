"""A container runtime for the kubelet whose containers are local processes; for tests, without a container engine.

`python -m igw_cluster.cri --socket PATH --root DIR --images FILE` serves Kubernetes' container runtime interface v1
(runtime and image service) on a Unix socket. Run it as root inside the node's own network and mount namespace
(`unshare --mount --net`, and better `--pid --fork --kill-child --mount-proc` too: then nothing can outlive the node),
and start the kubelet in the same mount namespace, so that the runtime sees the volumes that the kubelet mounts.

Flags: `--socket`, `--root` (state; any folder), `--images` (JSON, below), `--bridge` (made when absent; `igw0`),
`--pod-cidr` (`10.244.0.0/16`; its first address is the bridge's, Pods have one of the others as a /32 routed through
it, so that also traffic between Pods passes the node's NAT), `--leave-running` (SIGTERM leaves containers running, as
containerd does; without it SIGTERM ends and removes all of them), `--clean` (end and remove all that DIR records, then
exit), `--log-level`. It says `cri ready` on standard error when it serves. Killed with SIGKILL, its containers go on,
and the next start with the same DIR takes them over, or removes what is left of them.

FILE maps image names to where their files are; it is read anew whenever it has changed:

    {"registry.test/igw:1": {
       "layers": ["/"],                       folders, lowest first, stacked with overlayfs; "/" is the machine's own
       "hide": ["/run"],                      folders of the layers that are empty in the image
       "directories": {"/tmp": "1777"},       folders made, or given another mode (a home of mode 0700), on top
       "binds": [{"source": "/opt/x", "target": "/opt/x", "writable": false}],   live views of the machine
       "env": {"PATH": "..."}, "entrypoint": ["igw"], "cmd": ["--help"], "workdir": "/", "user": "65532",
       "init": false}}                        true: a small init is PID 1, as with `docker run --init`

Only `layers` is required. A name without a tag answers for every tag and digest of that repository, a name with a tag
only for itself; any other name is a pull error. `images.host_image` builds one on top of the machine's root.

Real: Pod network, UTS and IPC namespaces, a PID and mount namespace per container, all volumes and `/etc/hosts`,
`resolv.conf`, users and groups, capabilities, no_new_privs, read-only roots, masked paths, grace periods, exit codes,
logs, exec probes. Not offered, and refused: user namespaces, a PID namespace shared in a Pod, image volumes, streaming
(`kubectl exec`, `attach`, `port-forward`). Ignored: cgroup limits, seccomp, AppArmor, SELinux, host ports, stdin, tty.

Modules, from the kernel up: `linux`, `process`, `identity`, `rootfs`, `logs` run in small processes forked by `zygote`
(`holder` one per Pod, `launcher` one per container, `execution` one per command); `network`, `images`, `sandboxes`,
`containers`, `usage` are the runtime's state; `runtime_service`, `image_service`, `statistics_service` speak gRPC.
Nothing here knows of the product.
"""
