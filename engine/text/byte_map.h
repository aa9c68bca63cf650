/* byte_map.h - GPT-2's one-to-one map of bytes to printable characters, in
 * which byte-level vocabularies are written ("Ġthe" is " the").
 *
 * Pure. */
#ifndef LLM_TEXT_BYTE_MAP_H
#define LLM_TEXT_BYTE_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/str.h"

/* The character of a byte. */
uint32_t byte_map_char(uint8_t byte);

/* The byte of a character, -1 when it is outside the map. */
int byte_map_byte(uint32_t cp);

/* Appends text in the map's characters, 1 or 2 bytes for each. */
void byte_map_encode(struct str text, struct buf *out);

/* Appends the bytes that token spells; when a character is outside the map,
 * token itself (as the reference's decoder).  Returns whether all mapped. */
bool byte_map_decode(struct str token, struct buf *out);

#endif
