/* version.h - the one place that knows our version. */
#ifndef LLM_BASE_VERSION_H
#define LLM_BASE_VERSION_H

#define LLM_VERSION  "0.1.0"

#endif
