# Varnish, as its users would tune it for this work. The command line gives it the cache in memory
# (malloc) and one thread pool, because it has one core. Live steps pass without a cache lookup.
#
# The id of a step says here whether it is live, so Varnish knows before its fetch; the path of a real
# step does not say so. This favours Varnish: otherwise each poll would leave an object behind.

vcl 4.1;

backend origin {
    .host = "{{upstream_host}}";
    .port = "{{upstream_port}}";
}

sub vcl_recv {
    if (req.url ~ "/live-") {
        return (pass);
    }
    return (hash);
}

sub vcl_backend_fetch {
    set bereq.http.x-portkey-api-key = "{{api_key}}";
    set bereq.http.x-portkey-virtual-key = "{{virtual_key}}";
}

sub vcl_backend_response {
    if (beresp.http.cache-control ~ "no-store") {
        set beresp.uncacheable = true;
        return (deliver);
    }
    set beresp.ttl = 24h;
    return (deliver);
}
