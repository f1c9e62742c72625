"""`make cluster`: the test cluster with the product in it, for a person to play with, until `make cluster-down`.

Run as a program. Says what to type next.
"""

import os
import sys

from igw_cluster import builds, cli, cluster, toolchain
from igw_cluster.helm import Helm, HelmFailed
from igw_testing.product import CHART, IMAGE, ROOT, SYSTEM, product_image

_NEXT = """
The operator runs in {system}. Next:

  export KUBECONFIG={kubeconfig} PATH={tools}:$PATH
  kubectl apply -f {examples}
  kubectl get infpool           # until llama is ACCEPTED True with READY 3
  kubectl get svc -n envoy-gateway-system -l gateway.envoyproxy.io/owning-gateway-name=inference-gateway
  make cluster-forward SERVICE=envoy-gateway-system/NAME PORT=8081    # prints a URL; `kubectl port-forward` is not here
  curl URL/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "llama", "messages": [{{"role": "user", "content": "Hi"}}]}}'
  make cluster-down
"""


def main() -> int:
    """Its exit code."""
    if code := cli.main(["up"], {IMAGE: product_image()}):
        return code
    made = cluster.find(cli.DEFAULT_FOLDER)
    assert made is not None, "it was started a moment ago"
    helm = Helm(builds.ensure(["helm"])["helm"], made.server.kubeconfig, made.folder / "helm")
    words = ("igw", str(CHART), "--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout=90s")
    try:
        helm("upgrade", "--install", *words)
    except HelmFailed as error:
        print(error, file=sys.stderr)
        return 1
    examples = os.path.relpath(ROOT / "examples" / "kubernetes")
    tools = toolchain.kubectl().parent
    print(_NEXT.format(system=SYSTEM, examples=examples, kubeconfig=made.server.kubeconfig, tools=tools))
    return 0


if __name__ == "__main__":
    sys.exit(main())
