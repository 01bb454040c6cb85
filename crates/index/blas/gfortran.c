// The one routine of Fortran's run-time library that LAPACK calls: it joins two
// strings, padding with blanks. With it, no binary needs libgfortran.
#include <string.h>

__attribute__((visibility("hidden")))
void _gfortran_concat_string(size_t length, char* joined, size_t left_length, const char* left,
                             size_t right_length, const char* right) {
  if (left_length > length) left_length = length;
  memcpy(joined, left, left_length);
  if (right_length > length - left_length) right_length = length - left_length;
  memcpy(joined + left_length, right, right_length);
  memset(joined + left_length + right_length, ' ', length - left_length - right_length);
}
