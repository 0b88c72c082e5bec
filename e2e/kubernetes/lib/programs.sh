# shellcheck shell=bash
# The programs of the cluster: Debian's packages for containers and networks, and Kubernetes, CoreDNS and the volume
# provisioner built from the Go modules in programs/go.mod. A build is kept under a name made of its inputs, so that a changed
# version builds again and nothing else does.

packages=(busybox-static conntrack containerd containernetworking-plugins ethtool iproute2 iptables openssl procps runc socat buildah)
busybox=localhost/creto-busybox:local

install_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "needs these programs of Debian: ${missing[*]}; install them by hand, or name another cluster in CRETO_KUBECONFIG"
    say "installing Debian's ${missing[*]} (about 10 s)"
    # An index that cannot be refreshed (a third party's repository that is away) may still hold all that is needed.
    apt-get update -qq >"$base/apt.log" 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$base/apt.log" 2>&1 ||
        die "apt-get could not install them: $(tail -3 "$base/apt.log")"
}

build_programs() {
    if [ -e "$programs/complete" ]; then return; fi
    command -v go >/dev/null || die "needs Go 1.24 or later to build Kubernetes; install it, or name another cluster in CRETO_KUBECONFIG"
    say "building Kubernetes, CoreDNS and the volume provisioner from their Go modules: about 5 minutes on 2 cores, only once"
    rm -rf "$programs" && mkdir -p "$programs"
    local version minor
    version=$(cd "$here/programs" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
    minor=${version#v1.} minor=${minor%%.*}
    local stamp=k8s.io/component-base/version
    compile kubernetes ./kubernetes "-X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$minor"
    compile coredns ./coredns ""
    compile local-path-provisioner github.com/rancher/local-path-provisioner ""
    local program
    for program in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
        printf '#!/bin/sh\nexec %s/kubernetes %s "$@"\n' "$programs" "$program" >"$programs/$program"
        chmod +x "$programs/$program"
    done
    build_busybox
    touch "$programs/complete"
    find "$base/programs" -mindepth 1 -maxdepth 1 ! -path "$programs" -exec rm -rf {} +
    say "built Kubernetes $version"
}

compile() { # NAME PACKAGE LINKER-FLAGS
    local started=$SECONDS building
    (cd "$here/programs" && CGO_ENABLED=0 GOFLAGS=-mod=readonly nice go build -trimpath -buildvcs=false -ldflags "-s -w $3" -o "$programs/$1" "$2") \
        >"$base/build-$1.log" 2>&1 &
    building=$!
    while kill -0 "$building" 2>/dev/null; do
        sleep 1
        [ $(((SECONDS - started) % 30)) != 0 ] || say "  building $1: $((SECONDS - started)) s, $(grep -c downloading "$base/build-$1.log" || true) modules fetched"
    done
    wait "$building" || { cat "$base/build-$1.log" >&2; die "$1 did not build; the lines above say why"; }
    say "  $1 after $((SECONDS - started)) s"
}

# One small image serves as the pods' pause container, as the volume provisioner's helper, and as a shell for tests.
build_busybox() {
    local folder=$base/busybox store=(--root "$base/images" --runroot "$base/images-run" --storage-driver vfs)
    rm -rf "$folder" && mkdir -p "$folder" && cp "$(command -v busybox)" "$folder/busybox"
    printf '%s\n' 'FROM scratch' 'COPY busybox /bin/busybox' 'COPY busybox /bin/sh' 'USER 65532:65532' 'ENTRYPOINT ["/bin/busybox", "sleep", "infinity"]' >"$folder/Containerfile"
    if ! { buildah "${store[@]}" bud --isolation chroot -q -t "$busybox" -f "$folder/Containerfile" "$folder" &&
        rm -f "$programs/busybox.tar" && buildah "${store[@]}" push -q "$busybox" "oci-archive:$programs/busybox.tar:$busybox"; } >"$base/busybox.log" 2>&1; then
        cat "$base/busybox.log" >&2 && die "the busybox image did not build; the lines above say why"
    fi
    buildah "${store[@]}" rmi "$busybox" >/dev/null 2>&1 || true
    rm -rf "$folder"
}
