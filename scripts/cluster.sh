# shellcheck shell=bash
# Which cluster is used, and how something runs on it. With CRETO_KUBECONFIG it is that one, reached from here; else it is the
# local Kubernetes named by CRETO_CLUSTER, and commands run inside of its network.

local_cluster() { [ -z "${CRETO_KUBECONFIG-}" ]; }

# Starts or checks the cluster, and says which it is. `started_cluster` is yes when this call started it.
started_cluster=no
bring_up_cluster() {
    if local_cluster; then
        e2e/kubernetes/cluster status >/dev/null 2>&1 || started_cluster=yes
        e2e/kubernetes/cluster up
        return
    fi
    [ -r "$CRETO_KUBECONFIG" ] || die "CRETO_KUBECONFIG is '$CRETO_KUBECONFIG', which cannot be read; unset it to use the local Kubernetes"
    export KUBECONFIG=$CRETO_KUBECONFIG
    local context
    context=$(kubectl config current-context) || die "CRETO_KUBECONFIG ($CRETO_KUBECONFIG) has no current context; choose one with: kubectl config use-context NAME"
    kubectl get --raw /readyz --request-timeout=10s >/dev/null ||
        die "the cluster of CRETO_KUBECONFIG ($CRETO_KUBECONFIG, context $context) does not answer; unset it to use the local Kubernetes"
    say "cluster: using context $context of CRETO_KUBECONFIG ($CRETO_KUBECONFIG) instead of the local Kubernetes"
}

take_down_cluster() { if local_cluster; then e2e/kubernetes/cluster down; fi; }

# Runs a command with all that it needs to work on the cluster:
#   KUBECONFIG, CRETO_KUBECTL, CRETO_HELM, CRETO_CHARTS, CRETO_SAMPLES, CRETO_NODE_BINARY, CRETO_NODE_IMAGE, CRETO_OPERATOR_IMAGE,
#   CRETO_E2E_IMAGE, CRETO_BYZANTINE_IMAGE (where it was made),
#   CRETO_REACH = direct: addresses of pods and Services, and names NAME.NAMESPACE.svc.cluster.local, are reached from the command;
#                 forward: only the API server is, so a port has to be forwarded.
on_cluster() { # COMMAND...
    local variables=(CRETO_HELM="$CRETO_LOCAL/tools/bin/helm" CRETO_CHARTS="$root/charts" CRETO_SAMPLES="$root/config/samples" CRETO_NODE_BINARY="$out/release/cretoai-node" CRETO_CLIENT_BINARY="$out/release/cretoai" CRETO_PROMETHEUS="$CRETO_LOCAL/tools/bin/prometheus") line
    while read -r line; do variables+=("$line"); done <"$out/images/names"
    if local_cluster; then
        e2e/kubernetes/cluster run env "${variables[@]}" CRETO_REACH=direct CRETO_KUBECTL="$(e2e/kubernetes/cluster programs)/kubectl" "$@"
    else
        env "${variables[@]}" KUBECONFIG="$CRETO_KUBECONFIG" CRETO_REACH=forward CRETO_KUBECTL="$CRETO_LOCAL/tools/bin/kubectl" "$@"
    fi
}

# Brings images to where the cluster finds them.
deliver_images() { # [IMAGE ARCHIVE]...
    local context archives=() image
    if [ -n "${CRETO_IMAGE_REPOSITORY-}" ]; then
        while [ $# -gt 0 ]; do
            say "images: pushing $1"
            buildah "${store[@]}" pull -q "oci-archive:$2" >/dev/null
            buildah "${store[@]}" push -q "$1" "docker://$1" || die "$1 could not be pushed; log in to its registry with: buildah login"
            buildah "${store[@]}" rmi "$1" >/dev/null
            shift 2
        done
        return
    fi
    while [ $# -gt 0 ]; do archives+=("$2") && shift 2; done
    if local_cluster; then
        if e2e/kubernetes/cluster status >/dev/null 2>&1; then
            e2e/kubernetes/cluster load "${archives[@]}" >/dev/null
            say "images: loaded into the local Kubernetes"
        else
            say "images: made; the local Kubernetes is down, so they were not loaded (make demo does both)"
        fi
        return
    fi
    context=$(kubectl --kubeconfig "$CRETO_KUBECONFIG" config current-context)
    for image in "${archives[@]}"; do
        case $context in
            kind-*) kind load image-archive "$image" --name "${context#kind-}" ;;
            k3d-*) k3d image import "$image" --cluster "${context#k3d-}" ;;
            minikube) minikube image load "$image" ;;
            *) die "context $context is none of kind, k3d and minikube, into which images can be loaded: set CRETO_IMAGE_REPOSITORY to a repository that the cluster pulls from, such as ghcr.io/me" ;;
        esac
    done
    say "images: loaded into $context"
}
