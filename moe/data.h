/* Tokens from memory-mapped files. Two kinds:
 * - raw bytes: any file whose first 8 bytes are not the magic below; every byte is a token, V =
 * 256;
 * - token files: a 32-byte little-endian header, then tokens without padding:
 *     offset 0  8 bytes  magic "GLNTOK\0\1"
 *     offset 8  u32      bytes per token: 2 or 4
 *     offset 12 u32      vocabulary V that the tokens were made for
 *     offset 16 u64      tokens in the file
 *     offset 24 u64      reserved, 0
 * Every token is checked against the model's vocabulary once, when the file is opened. The file
 * must not shrink while it is open (the operating system would stop the process). */
#ifndef GLN_MOE_DATA_H
#define GLN_MOE_DATA_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gln_data gln_data_t;

/** Map `path`.
 *  @param vocabulary tokens must be below it
 *  @param sequence   S; the file must hold at least S + 1 tokens
 *  @return GLN_OK; GLN_ERR_DATA: missing, unreadable, empty, too short (found and needed), bad
 * header, or a token outside the vocabulary (its position and value are named). */
gln_status_t gln_data_open(const char *path, int vocabulary, int64_t sequence, gln_data_t **out);
void gln_data_close(gln_data_t *data); /* takes NULL */

int64_t gln_data_tokens(const gln_data_t *data);
/** 64-bit hash of the content, for checkpoints: a resumed run must read the same data. */
uint64_t gln_data_hash(const gln_data_t *data);

/** Training sequence number `sample` (counted from the start of the run). The file is cut into
 * windows of S tokens at an offset drawn per epoch in [0, (N - 1) mod S] for N tokens, so that
 * every epoch has the same floor((N - 1) / S) whole windows; each epoch visits every one of them
 * once in a random order: a pure function of (seed, sample), so it depends on no rank and resumes
 * by itself. Sequences per epoch: see gln_data_epoch. @param sample >= 0 (assertion)
 *  @param input  [S] out;  @param target [S] out: the next tokens */
void gln_data_sample(const gln_data_t *data, uint64_t seed, int64_t sample, int32_t *input,
                     int32_t *target);

/** Sequences of one epoch: floor((N - 1) / S), at least 1. */
int64_t gln_data_epoch(const gln_data_t *data);

/** Validation windows: consecutive, every token of the file but the first is predicted exactly
 * once. The last window is short: its remaining inputs are 0 and targets -1. Windows past the end
 * are all -1. */
int64_t gln_data_windows(const gln_data_t *data);
void gln_data_window(const gln_data_t *data, int64_t window, int32_t *input, int32_t *target);

/** Write a token file (header included), forced to the disk.
 *  @return GLN_OK; GLN_ERR_IO (no file is left); GLN_ERR_ARGUMENT: bytes_per_token not 2 or 4, a
 * vocabulary below 1 or that these bytes cannot hold, or a token outside it; GLN_ERR_MEMORY. */
gln_status_t gln_data_write(const char *path, int bytes_per_token, int vocabulary,
                            const int32_t *tokens, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
