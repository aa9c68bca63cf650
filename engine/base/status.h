/* status.h - the one return idiom of the engine.
 *
 * A function that can fail for outside reasons returns int: OK, ERROR or
 * AGAIN, the same numbers as nginx's, and describes an ERROR in its last
 * argument, struct err *.  One that cannot fail returns void or its value.
 * A yes/no question returns bool. */
#ifndef LLM_BASE_STATUS_H
#define LLM_BASE_STATUS_H

#define OK      0
#define ERROR  (-1)
#define AGAIN  (-2)   /* nothing is wrong: call again when more has arrived */

#endif
