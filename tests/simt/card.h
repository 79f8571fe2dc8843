/* What a test may have the shim's cards refuse, or say of themselves (card.c). */
#ifndef RLF_TESTS_SIMT_CARD_H
#define RLF_TESTS_SIMT_CARD_H

#include <stdbool.h>

extern int simt_major;          /* of a card's compute capability */
extern bool simt_opens_nothing; /* of what other processes share: as between processes that do not see each other */

#endif
