//! Envoy: a virtual host for each environment, one worker.

use serde_json::{Value, json};

use super::site::Site;
use super::{Mode, host};

/// Its settings.
pub fn settings(site: &Site) -> Value {
    let address = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let cluster = |(k, port): (usize, &u16)| {
        let endpoint = json!({ "lb_endpoints": [{ "endpoint": { "address": address(*port) } }] });
        let name = format!("dep{k}");
        let most = json!({ "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 });
        json!({ "name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": { "thresholds": [most] },
            "load_assignment": { "cluster_name": name, "endpoints": [endpoint] } })
    };
    let environment = |n: usize| {
        let route = json!({ "cluster": format!("dep{}", n % site.replicas.len()), "timeout": "0s" });
        json!({ "name": format!("e{n}"), "domains": [host(n)], "routes": [{ "match": { "prefix": "/" }, "route": route }] })
    };
    let extension = "type.googleapis.com/envoy.extensions";
    let router = format!("{extension}.filters.http.router.v3.Router");
    let manager = json!({
        "@type": format!("{extension}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "x", "codec_type": "AUTO", "use_remote_address": true, "generate_request_id": true,
        "http2_protocol_options": { "max_concurrent_streams": 1_000 },
        "http_filters": [{ "name": "router", "typed_config": { "@type": router, "suppress_envoy_headers": true, "dynamic_stats": false } }],
        "route_config": {
            "name": "r", "ignore_port_in_host_matching": true,
            "virtual_hosts": (0..site.environments).map(environment).collect::<Vec<_>>(),
            "request_headers_to_add": [{ "header": { "key": "via", "value": "1.1 compare" } }],
        },
    });
    let mut chain = json!({ "filters": [{ "name": "hcm", "typed_config": manager }] });
    if site.mode == Mode::Tls {
        let file = |name| json!({ "filename": site.shown(name) });
        let versions = json!({ "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" });
        let certificates = json!([{ "certificate_chain": file("cert.pem"), "private_key": file("key.pem") }]);
        chain["transport_socket"] = json!({ "name": "tls", "typed_config": {
            "@type": format!("{extension}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": { "alpn_protocols": ["h2", "http/1.1"], "tls_params": versions, "tls_certificates": certificates },
        } });
    }
    let listener = json!({ "name": "l", "address": address(site.port), "filter_chains": [chain] });
    let clusters: Vec<_> = site.replicas.iter().enumerate().map(cluster).collect();
    json!({ "node": { "id": "n", "cluster": "c" }, "static_resources": { "listeners": [listener], "clusters": clusters } })
}
