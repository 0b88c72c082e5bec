# shellcheck shell=bash
# Everything that the programs of one run read: certificates, kubeconfigs, and the files of config/ with their @NAMES@ replaced.

render() { # FILE TARGET [NAME VALUE]...
    local source=$here/config/$1 target=$2 edits=(-e "s#@RUN@#$run#g" -e "s#@NODE_IP@#$node_ip#g" -e "s#@PODS@#$pods#g" -e "s#@CGROUP@#/$cgroup#g" -e "s#@BUSYBOX@#$busybox#g")
    shift 2
    while [ $# -gt 0 ]; do edits+=(-e "s#@$1@#$2#g") && shift 2; done
    sed "${edits[@]}" "$source" >"$target"
}

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }

# A client and server certificate of the run's own authority, and a kubeconfig that carries it.
credentials() { # NAME SUBJECT [ALTERNATIVE-NAMES]
    local pki=$run/pki
    new_key "$pki/$1.key"
    openssl req -new -key "$pki/$1.key" -subj "$2" 2>/dev/null |
        openssl x509 -req -days 365 -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -out "$pki/$1.crt" 2>/dev/null \
            -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\n%s\n' "${3:+subjectAltName=$3}")
    render kubeconfig.yaml "$run/$1.kubeconfig" USER "$1" \
        CA "$(base64 -w0 "$pki/ca.crt")" CERT "$(base64 -w0 "$pki/$1.crt")" KEY "$(base64 -w0 "$pki/$1.key")"
    chmod 600 "$run/$1.kubeconfig"
}

configure() {
    mkdir -p "$run"/{pki,log,cni,kubelet,sysctl,volumes,volume-plugins,pod-logs}
    install -d -m 700 "$run/etcd"
    new_key "$run/pki/ca.key"
    openssl req -x509 -new -key "$run/pki/ca.key" -days 365 -subj /CN=creto-local -out "$run/pki/ca.crt" 2>/dev/null
    openssl genrsa -out "$run/pki/tokens.key" 2048 2>/dev/null
    openssl rsa -in "$run/pki/tokens.key" -pubout -out "$run/pki/tokens.pub" 2>/dev/null
    local service=kubernetes.default.svc
    credentials kube-apiserver /CN=kube-apiserver \
        "IP:$node_ip,IP:$api_ip,IP:127.0.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:$service,DNS:$service.cluster.local"
    credentials admin /O=system:masters/CN=admin
    credentials kube-controller-manager /CN=system:kube-controller-manager
    credentials kube-scheduler /CN=system:kube-scheduler
    credentials kube-proxy /CN=system:kube-proxy
    credentials kubelet "/O=system:nodes/CN=system:node:$node"

    render containerd.toml "$run/containerd.toml"
    render 10-pods.conflist "$run/cni/10-pods.conflist"
    render kubelet.yaml "$run/kubelet.yaml"
    render Corefile "$run/Corefile"
    render volumes.json "$run/volumes.json"
    render helper-pod.yaml "$run/helper-pod.yaml"
}
