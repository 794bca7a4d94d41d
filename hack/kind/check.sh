#!/usr/bin/env bash
# Installs the chart into the kind cluster that `make kind-up` and `make kind-load` prepared, and checks that the VIP
# Service lists three API servers, two while one of them is frozen, and then three again. Uninstalls the chart, and
# checks that the VIP Service still lists three. Needs kubectl, helm and a container tool.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${KIND_CLUSTER:?name of the kind cluster}" "${IMG:?image, as loaded}" "${CONTAINER_TOOL:=docker}"
namespace=endpoint-copier-operator
kubectl=(kubectl --context "kind-$KIND_CLUSTER")
# Each call needs a time limit, because it can reach the frozen API server.
time_limit=--request-timeout=5s
helm=(helm --kube-context "kind-$KIND_CLUSTER")

addresses() {
  "${kubectl[@]}" get endpointslices --namespace default "$time_limit" \
    --selector kubernetes.io/service-name=kubernetes-vip,endpointslice.kubernetes.io/managed-by=endpoint-copier-operator \
    --output jsonpath='{range .items[*].endpoints[*]}{.addresses[0]}{"\n"}{end}'
}

# Waits until the VIP has $1 API servers.
wait_for() {
  for _ in $(seq 120); do
    # The API can be unavailable for a few seconds after one of its servers has failed.
    found=$(addresses 2>/dev/null | grep -c . || true)
    [ "$found" -eq "$1" ] && { echo "the VIP has $1 API servers after ${SECONDS} s"; return; }
    sleep 1
  done
  echo "the VIP has ${found:-0} API servers instead of $1" >&2
  "${kubectl[@]}" get endpointslices --all-namespaces --output wide >&2
  "${kubectl[@]}" logs --namespace "$namespace" --selector app.kubernetes.io/name=endpoint-copier-operator --tail 50 >&2
  exit 1
}

# There is no --wait, because Helm would wait for the address of the LoadBalancer Service, and nothing assigns one here.
"${helm[@]}" upgrade --install endpoint-copier-operator charts/endpoint-copier-operator \
  --namespace "$namespace" --create-namespace \
  --set replicaCount=3 --set image.repository="${IMG%:*}" --set image.tag="${IMG##*:}" --set image.pullPolicy=Never \
  --set vip.create=true --set vip.distribution=k3s
"${kubectl[@]}" rollout status --namespace "$namespace" deployment/endpoint-copier-operator --timeout 2m
wait_for 3

node=$KIND_CLUSTER-control-plane3
# The node is frozen, not stopped, because a restarted kind node can get another address.
"$CONTAINER_TOOL" pause "$node" >/dev/null
wait_for 2
"$CONTAINER_TOOL" unpause "$node" >/dev/null
wait_for 3

"${helm[@]}" uninstall endpoint-copier-operator --namespace "$namespace" --wait
"${kubectl[@]}" get service kubernetes-vip --namespace default
wait_for 3
echo "kind: the copy and the VIP stay without the operator"
