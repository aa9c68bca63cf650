
/*
 * ngx_http_llm_key.c - the API key of a request: $llm_key, and $llm_key_id,
 * by which it is named in logs and to the engine.
 *
 * The id is the first 16 hex digits of SHA-256 (FIPS 180-4) of the key, or of
 * HMAC-SHA-256 (RFC 2104) keyed by llm_key_salt, so that anybody who may know
 * the salt can find the id of a key with sha256sum or openssl, and whoever has
 * only the logs cannot try short keys.  nginx itself has MD5 and SHA-1 only,
 * and the module links no library.
 */


#include "ngx_http_llm.h"


#define NGX_HTTP_LLM_SHA256_BLOCK  64
#define NGX_HTTP_LLM_SHA256_SIZE   32


typedef struct {
    uint32_t    h[8];
    uint64_t    bytes;
    u_char      block[NGX_HTTP_LLM_SHA256_BLOCK];
} ngx_http_llm_sha256_t;


static ngx_int_t ngx_http_llm_bearer(ngx_str_t *value, ngx_str_t *key);
static void ngx_http_llm_trim(ngx_str_t *s);
static void ngx_http_llm_key_digest(ngx_str_t *salt, ngx_str_t *key,
    u_char *digest);
static void ngx_http_llm_sha256_init(ngx_http_llm_sha256_t *ctx);
static void ngx_http_llm_sha256_update(ngx_http_llm_sha256_t *ctx,
    const u_char *data, size_t len);
static void ngx_http_llm_sha256_final(ngx_http_llm_sha256_t *ctx,
    u_char *digest);
static void ngx_http_llm_sha256_block(ngx_http_llm_sha256_t *ctx);


/* headers with a bare key: Anthropic's clients, then Azure's */

static const ngx_str_t  ngx_http_llm_key_headers[] = {
    ngx_string("x-api-key"),
    ngx_string("api-key"),
    ngx_null_string
};


static const uint32_t  ngx_http_llm_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5,
    0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
    0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
    0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};


/* borrows from the request's headers; an empty key is no key */

ngx_int_t
ngx_http_llm_key(ngx_http_request_t *r, ngx_str_t *key)
{
    ngx_table_elt_t  *h;
    const ngx_str_t  *name;

    h = r->headers_in.authorization;

    if (h && ngx_http_llm_bearer(&h->value, key) == NGX_OK) {
        return NGX_OK;
    }

    for (name = ngx_http_llm_key_headers; name->len; name++) {

        h = ngx_http_llm_find_header(r, (const char *) name->data, name->len);

        if (h) {
            *key = h->value;
            ngx_http_llm_trim(key);

            if (key->len) {
                return NGX_OK;
            }
        }
    }

    return NGX_DECLINED;
}


/* Authorization: Bearer TOKEN; the scheme is not case-sensitive */

static ngx_int_t
ngx_http_llm_bearer(ngx_str_t *value, ngx_str_t *key)
{
    size_t  len;

    len = sizeof("Bearer") - 1;

    if (value->len <= len
        || ngx_strncasecmp(value->data, (u_char *) "Bearer", len) != 0
        || (value->data[len] != ' ' && value->data[len] != '\t'))
    {
        return NGX_DECLINED;
    }

    key->data = value->data + len;
    key->len = value->len - len;

    ngx_http_llm_trim(key);

    return key->len ? NGX_OK : NGX_DECLINED;
}


static void
ngx_http_llm_trim(ngx_str_t *s)
{
    while (s->len && (s->data[0] == ' ' || s->data[0] == '\t')) {
        s->data++;
        s->len--;
    }

    while (s->len
           && (s->data[s->len - 1] == ' ' || s->data[s->len - 1] == '\t'))
    {
        s->len--;
    }
}


/* id: NGX_HTTP_LLM_KEY_ID_LEN bytes */

ngx_int_t
ngx_http_llm_key_id(ngx_http_request_t *r, u_char *id)
{
    u_char                     digest[NGX_HTTP_LLM_SHA256_SIZE];
    ngx_str_t                  key;
    ngx_http_llm_main_conf_t  *mcf;

    if (ngx_http_llm_key(r, &key) != NGX_OK) {
        return NGX_DECLINED;
    }

    mcf = ngx_http_get_module_main_conf(r, ngx_http_llm_module);

    ngx_http_llm_key_digest(&mcf->key_salt, &key, digest);

    (void) ngx_hex_dump(id, digest, NGX_HTTP_LLM_KEY_ID_LEN / 2);

    return NGX_OK;
}


/* HMAC-SHA-256 of the key, or without a salt its SHA-256 */

static void
ngx_http_llm_key_digest(ngx_str_t *salt, ngx_str_t *key, u_char *digest)
{
    u_char                 pad[NGX_HTTP_LLM_SHA256_BLOCK];
    ngx_uint_t             i;
    ngx_http_llm_sha256_t  ctx;

    ngx_http_llm_sha256_init(&ctx);

    if (salt->len == 0) {
        ngx_http_llm_sha256_update(&ctx, key->data, key->len);
        ngx_http_llm_sha256_final(&ctx, digest);
        return;
    }

    ngx_memzero(pad, NGX_HTTP_LLM_SHA256_BLOCK);

    if (salt->len > NGX_HTTP_LLM_SHA256_BLOCK) {
        ngx_http_llm_sha256_update(&ctx, salt->data, salt->len);
        ngx_http_llm_sha256_final(&ctx, pad);
        ngx_http_llm_sha256_init(&ctx);

    } else {
        ngx_memcpy(pad, salt->data, salt->len);
    }

    for (i = 0; i < NGX_HTTP_LLM_SHA256_BLOCK; i++) {
        pad[i] ^= 0x36;
    }

    ngx_http_llm_sha256_update(&ctx, pad, NGX_HTTP_LLM_SHA256_BLOCK);
    ngx_http_llm_sha256_update(&ctx, key->data, key->len);
    ngx_http_llm_sha256_final(&ctx, digest);

    for (i = 0; i < NGX_HTTP_LLM_SHA256_BLOCK; i++) {
        pad[i] ^= 0x36 ^ 0x5c;
    }

    ngx_http_llm_sha256_init(&ctx);
    ngx_http_llm_sha256_update(&ctx, pad, NGX_HTTP_LLM_SHA256_BLOCK);
    ngx_http_llm_sha256_update(&ctx, digest, NGX_HTTP_LLM_SHA256_SIZE);
    ngx_http_llm_sha256_final(&ctx, digest);
}


static void
ngx_http_llm_sha256_init(ngx_http_llm_sha256_t *ctx)
{
    static const uint32_t  h[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
    };

    ngx_memcpy(ctx->h, h, sizeof(h));
    ctx->bytes = 0;
}


static void
ngx_http_llm_sha256_update(ngx_http_llm_sha256_t *ctx, const u_char *data,
    size_t len)
{
    size_t  n, used;

    while (len) {
        used = ctx->bytes % NGX_HTTP_LLM_SHA256_BLOCK;
        n = ngx_min(len, NGX_HTTP_LLM_SHA256_BLOCK - used);

        ngx_memcpy(ctx->block + used, data, n);

        ctx->bytes += n;
        data += n;
        len -= n;

        if (used + n == NGX_HTTP_LLM_SHA256_BLOCK) {
            ngx_http_llm_sha256_block(ctx);
        }
    }
}


static void
ngx_http_llm_sha256_final(ngx_http_llm_sha256_t *ctx, u_char *digest)
{
    size_t      used;
    uint64_t    bits;
    ngx_uint_t  i;

    used = ctx->bytes % NGX_HTTP_LLM_SHA256_BLOCK;
    bits = ctx->bytes * 8;

    ctx->block[used++] = 0x80;

    if (used > NGX_HTTP_LLM_SHA256_BLOCK - 8) {
        ngx_memzero(ctx->block + used, NGX_HTTP_LLM_SHA256_BLOCK - used);
        ngx_http_llm_sha256_block(ctx);
        used = 0;
    }

    ngx_memzero(ctx->block + used, NGX_HTTP_LLM_SHA256_BLOCK - used);

    for (i = 0; i < 8; i++) {
        ctx->block[NGX_HTTP_LLM_SHA256_BLOCK - 1 - i] =
                                                   (u_char) (bits >> (8 * i));
    }

    ngx_http_llm_sha256_block(ctx);

    for (i = 0; i < NGX_HTTP_LLM_SHA256_SIZE; i++) {
        digest[i] = (u_char) (ctx->h[i / 4] >> (24 - 8 * (i % 4)));
    }
}


#define ngx_http_llm_rotr(x, n)  ((x) >> (n) | (x) << (32 - (n)))


static void
ngx_http_llm_sha256_block(ngx_http_llm_sha256_t *ctx)
{
    uint32_t       w[64], v[8], s0, s1, t1, t2;
    ngx_uint_t     i;
    const u_char  *p;

    p = ctx->block;

    for (i = 0; i < 16; i++, p += 4) {
        w[i] = (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16
               | (uint32_t) p[2] << 8 | (uint32_t) p[3];
    }

    for ( /* void */ ; i < 64; i++) {
        s0 = ngx_http_llm_rotr(w[i - 15], 7) ^ ngx_http_llm_rotr(w[i - 15], 18)
             ^ w[i - 15] >> 3;
        s1 = ngx_http_llm_rotr(w[i - 2], 17) ^ ngx_http_llm_rotr(w[i - 2], 19)
             ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }

    /* v: a, b, c, d, e, f, g, h of the standard */

    ngx_memcpy(v, ctx->h, sizeof(v));

    for (i = 0; i < 64; i++) {
        s1 = ngx_http_llm_rotr(v[4], 6) ^ ngx_http_llm_rotr(v[4], 11)
             ^ ngx_http_llm_rotr(v[4], 25);
        t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6]))
             + ngx_http_llm_sha256_k[i] + w[i];

        s0 = ngx_http_llm_rotr(v[0], 2) ^ ngx_http_llm_rotr(v[0], 13)
             ^ ngx_http_llm_rotr(v[0], 22);
        t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

        v[7] = v[6];
        v[6] = v[5];
        v[5] = v[4];
        v[4] = v[3] + t1;
        v[3] = v[2];
        v[2] = v[1];
        v[1] = v[0];
        v[0] = t1 + t2;
    }

    for (i = 0; i < 8; i++) {
        ctx->h[i] += v[i];
    }
}
