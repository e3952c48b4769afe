/* Token files, mapped. Opening reads the file once (vocabulary check and XXH3-64); a training
 * sequence is found in O(1): the epoch is sample / windows, the window the sample's position under
 * a random permutation (base/rng.h), shifted by the epoch's offset. */
#include "moe/data.h"

#include "base/log.h"
#include "base/rng.h"
#include "moe/file.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAGIC "GLNTOK\0\1" /* 8 bytes and a terminator */

enum { HEADER_BYTES = 32, BLOCK_TOKENS = 4096 };

struct gln_data {
    const char *map;
    size_t bytes;
    const char *tokens; /* [count] of width bytes, little-endian, in the map */
    int width;          /* 1, 2 or 4 */
    int64_t count;      /* N */
    int64_t sequence;   /* S */
    int64_t epoch;      /* whole windows */
    uint64_t hash;
};

typedef struct header {
    char magic[8];
    uint32_t width, vocabulary;
    uint64_t count, reserved;
} header_t;

_Static_assert(sizeof(header_t) == HEADER_BYTES, "the header as the file has it");

static uint32_t token(const gln_data_t *data, int64_t i)
{
    if (data->width == 1) return ((const uint8_t *)data->tokens)[i];
    if (data->width == 2) return ((const uint16_t *)data->tokens)[i];
    return ((const uint32_t *)data->tokens)[i];
}

/* Fill width, count and tokens from the file's kind; *vocabulary_file is what its tokens must be
 * below. */
static gln_status_t parse(const char *path, gln_data_t *data, uint32_t *vocabulary_file)
{
    header_t header;
    if (data->bytes == 0)
        return gln_fail(GLN_ERR_DATA, "%s: expected tokens, found an empty file", path);
    if (data->bytes < 8 || memcmp(data->map, MAGIC, 8) != 0) {
        data->width = 1;
        data->count = (int64_t)data->bytes;
        data->tokens = data->map;
        *vocabulary_file = 256;
        return GLN_OK;
    }
    if (data->bytes < HEADER_BYTES)
        return gln_fail(GLN_ERR_DATA,
                        "%s: expected a header of %d bytes, found %zu bytes; write the file again",
                        path, HEADER_BYTES, data->bytes);
    memcpy(&header, data->map, sizeof header);
    if ((header.width != 2 && header.width != 4) || header.vocabulary == 0 || header.reserved != 0)
        return gln_fail(
            GLN_ERR_DATA,
            "%s: bad header: expected 2 or 4 bytes per token, a vocabulary above 0 and 0 reserved, "
            "found %" PRIu32 ", %" PRIu32 " and %" PRIu64 "; write the file again",
            path, header.width, header.vocabulary, header.reserved);
    uint64_t held = (data->bytes - HEADER_BYTES) / header.width;
    if (header.count != held || (data->bytes - HEADER_BYTES) % header.width)
        return gln_fail(GLN_ERR_DATA,
                        "%s: the header says %" PRIu64 " tokens of %" PRIu32
                        " bytes, found %zu bytes of tokens; "
                        "the file is damaged or cut: write it again",
                        path, header.count, header.width, data->bytes - HEADER_BYTES);
    data->width = (int)header.width;
    data->count = (int64_t)header.count;
    data->tokens = data->map + HEADER_BYTES;
    *vocabulary_file = header.vocabulary;
    return GLN_OK;
}

/* The first token that is not below `limit`; -1 if there is none. Blockwise, so that the inner loop
 * is a plain maximum. */
static int64_t find_outside(const gln_data_t *data, uint32_t limit)
{
    for (int64_t begin = 0; begin < data->count; begin += BLOCK_TOKENS) {
        int64_t end = begin + BLOCK_TOKENS < data->count ? begin + BLOCK_TOKENS : data->count;
        uint32_t largest = 0;
        for (int64_t i = begin; i < end; i++)
            largest = token(data, i) > largest ? token(data, i) : largest;
        for (int64_t i = begin; largest >= limit; i++)
            if (token(data, i) >= limit) return i;
    }
    return -1;
}

static gln_status_t check(const char *path, const gln_data_t *data, uint32_t vocabulary_file,
                          int vocabulary)
{
    if (data->width > 1 && vocabulary_file > (uint32_t)vocabulary)
        return gln_fail(GLN_ERR_DATA,
                        "%s: its tokens were made for a vocabulary of %" PRIu32
                        ", the model has %d; use a model "
                        "vocabulary of at least %" PRIu32,
                        path, vocabulary_file, vocabulary, vocabulary_file);
    if (data->count - 1 < data->sequence)
        return gln_fail(GLN_ERR_DATA,
                        "%s: expected at least %" PRId64 " tokens for sequences of %" PRId64
                        ", found %" PRId64 "; use a longer file or shorter sequences",
                        path, data->sequence + 1, data->sequence, data->count);
    uint32_t limit =
        vocabulary_file < (uint32_t)vocabulary ? vocabulary_file : (uint32_t)vocabulary;
    int64_t outside = data->width == 1 && limit >= 256 ? -1 : find_outside(data, limit);
    if (outside >= 0)
        return gln_fail(GLN_ERR_DATA,
                        "%s: token %" PRId64 " is %" PRIu32 ", expected below %" PRIu32
                        "; check the tokenizer or the model's vocabulary",
                        path, outside, token(data, outside), limit);
    return GLN_OK;
}

gln_status_t gln_data_open(const char *path, int vocabulary, int64_t sequence, gln_data_t **out)
{
    const void *map = NULL;
    uint32_t vocabulary_file = 0;
    if (!path || vocabulary < 1 || sequence < 1)
        return gln_fail(GLN_ERR_ARGUMENT,
                        "data: expected a path, a vocabulary and a sequence of at least 1, "
                        "found %s, %d and %" PRId64,
                        path ? path : "no path", vocabulary, sequence);
    gln_data_t *data = calloc(1, sizeof *data);
    if (!data) return gln_fail(GLN_ERR_MEMORY, "%s: cannot allocate %zu bytes", path, sizeof *data);
    data->sequence = sequence;
    gln_status_t status = gln_file_map(path, &map, &data->bytes);
    if (status == GLN_ERR_IO) status = GLN_ERR_DATA; /* for callers, a missing file is bad data */
    if (status != GLN_OK) goto fail;
    data->map = map;
    status = parse(path, data, &vocabulary_file);
    if (status == GLN_OK) status = check(path, data, vocabulary_file, vocabulary);
    if (status != GLN_OK) goto fail;
    data->epoch = (data->count - 1) / sequence;
    data->hash = XXH3_64bits(data->map, data->bytes);
    *out = data;
    return GLN_OK;
fail:
    gln_data_close(data);
    return status;
}

void gln_data_close(gln_data_t *data)
{
    if (!data) return;
    gln_file_unmap(data->map, data->bytes);
    free(data);
}

int64_t gln_data_tokens(const gln_data_t *data)
{
    return data->count;
}

uint64_t gln_data_hash(const gln_data_t *data)
{
    return data->hash;
}

int64_t gln_data_epoch(const gln_data_t *data)
{
    return data->epoch;
}

void gln_data_sample(const gln_data_t *data, uint64_t seed, int64_t sample, int32_t *input,
                     int32_t *target)
{
    GLN_ASSERT(sample >= 0);
    uint64_t windows = (uint64_t)data->epoch, epoch = (uint64_t)sample / windows;
    uint64_t spare = (uint64_t)((data->count - 1) % data->sequence);
    uint64_t offset = gln_rng_u64(seed, gln_rng_stream(GLN_RNG_DATA, epoch, 1), 0) % (spare + 1);
    uint64_t window = gln_rng_permute(seed, gln_rng_stream(GLN_RNG_DATA, epoch, 0), windows,
                                      (uint64_t)sample % windows);
    int64_t begin = (int64_t)(offset + window * (uint64_t)data->sequence);
    for (int64_t i = 0; i < data->sequence; i++) {
        input[i] = (int32_t)token(data, begin + i);
        target[i] = (int32_t)token(data, begin + i + 1);
    }
}

int64_t gln_data_windows(const gln_data_t *data)
{
    return (data->count - 1 + data->sequence - 1) / data->sequence;
}

void gln_data_window(const gln_data_t *data, int64_t window, int32_t *input, int32_t *target)
{
    GLN_ASSERT(window >= 0);
    int past = window >= gln_data_windows(data);
    int64_t begin = past ? data->count : window * data->sequence;
    for (int64_t i = 0; i < data->sequence; i++) {
        int inside = begin + i + 1 < data->count;
        input[i] = inside ? (int32_t)token(data, begin + i) : 0;
        target[i] = inside ? (int32_t)token(data, begin + i + 1) : -1;
    }
}

/* Tokens [begin, end) in the file's width, in blocks. */
static gln_status_t write_tokens(gln_file_writer_t *writer, int width, const int32_t *tokens,
                                 int64_t count)
{
    uint16_t narrow[BLOCK_TOKENS];
    if (width == 4) return gln_file_writer_add(writer, tokens, (size_t)count * 4);
    for (int64_t begin = 0; begin < count; begin += BLOCK_TOKENS) {
        int64_t n = count - begin < BLOCK_TOKENS ? count - begin : BLOCK_TOKENS;
        for (int64_t i = 0; i < n; i++)
            narrow[i] = (uint16_t)tokens[begin + i];
        gln_status_t status = gln_file_writer_add(writer, narrow, (size_t)n * 2);
        if (status != GLN_OK) return status;
    }
    return GLN_OK;
}

gln_status_t gln_data_write(const char *path, int bytes_per_token, int vocabulary,
                            const int32_t *tokens, int64_t count)
{
    if ((bytes_per_token != 2 && bytes_per_token != 4) || vocabulary < 1 || count < 0 ||
        (bytes_per_token == 2 && vocabulary > 65536))
        return gln_fail(
            GLN_ERR_ARGUMENT,
            "%s: expected 2 or 4 bytes per token, a vocabulary from 1 to 65536 (2 bytes) or above "
            "(4 bytes) and 0 or more tokens, found %d, %d and %" PRId64,
            path, bytes_per_token, vocabulary, count);
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= vocabulary)
            return gln_fail(GLN_ERR_ARGUMENT,
                            "%s: token %" PRId64 " is %" PRId32 ", expected in [0, %d)", path, i,
                            tokens[i], vocabulary);
    header_t header = {.width = (uint32_t)bytes_per_token,
                       .vocabulary = (uint32_t)vocabulary,
                       .count = (uint64_t)count};
    memcpy(header.magic, MAGIC, sizeof header.magic);
    gln_file_writer_t writer;
    gln_status_t status = gln_file_writer_open(path, &writer);
    if (status != GLN_OK) return status;
    status = gln_file_writer_add(&writer, &header, sizeof header);
    if (status == GLN_OK) status = write_tokens(&writer, bytes_per_token, tokens, count);
    return gln_file_writer_close(&writer, status, NULL, NULL);
}
