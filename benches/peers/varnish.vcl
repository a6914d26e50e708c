# Varnish, as its users would tune it for this: the cache in malloc'ed memory (on the command line,
# with one thread pool, since it has one core), live steps passed without a look into the cache.
#
# That a step is live shows in its id here, so Varnish is told before it asks; a real step's path
# does not say so. It flatters Varnish: the alternative leaves an object behind for every poll.

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
