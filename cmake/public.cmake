# The public headers, and what is made of them at configure time: the copies that are installed, and the list of
# symbols that the shared library exports. A function is public because an installed header declares it.
set(GLN_PUBLIC_HEADERS
  base/arena.h base/memory.h base/device.h base/log.h base/pool.h base/status.h base/tensor.h
  kernels/backend.h
  router/ledger.h router/policies.h router/router.h
  comm/comm.h comm/exchange.h
  cluster/placement.h cluster/topology.h
  moe/gleaner.h moe/layer.h moe/parallel.h)
set(GLN_PUBLIC_INCLUDE ${PROJECT_BINARY_DIR}/include)
set(GLN_EXPORTS ${PROJECT_BINARY_DIR}/generated/gleaner.map)

# Written aside and copied if it differs, so that nothing is built again for nothing.
function(gln_write path text)
  file(WRITE ${path}.new "${text}")
  configure_file(${path}.new ${path} COPYONLY)
endfunction()

set(umbrella "/* Everything of gleaner's library. */\n#ifndef GLEANER_GLEANER_H\n#define GLEANER_GLEANER_H\n\n")
set(functions)
foreach(header ${GLN_PUBLIC_HEADERS})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${header})
  file(READ ${PROJECT_SOURCE_DIR}/${header} text)
  # installed headers find each other wherever they lie, without an -I into their folder
  string(REGEX REPLACE "#include \"([a-z]+/[a-z_]+\\.h)\"" "#include \"../\\1\"" installed "${text}")
  gln_write(${GLN_PUBLIC_INCLUDE}/gleaner/${header} "${installed}")
  string(APPEND umbrella "#include \"${header}\"\n")
  # declared functions: gln_name( outside of comments
  string(REGEX REPLACE "/\\*([^*]|\\*+[^*/])*\\*+/" "" code "${text}")
  string(REGEX REPLACE "static inline [^(]*\\(" "(" code "${code}")
  string(REGEX MATCHALL "gln_[a-z0-9_]+\\(" found "${code}")
  list(APPEND functions ${found})
endforeach()
gln_write(${GLN_PUBLIC_INCLUDE}/gleaner/gleaner.h "${umbrella}\n#endif\n")
list(REMOVE_DUPLICATES functions)
list(SORT functions)
string(REPLACE "(" ";\n        " map "${functions}")
string(REGEX REPLACE ";\n        ;" ";\n        " map "${map}")
string(STRIP "${map}" map)
gln_write(${GLN_EXPORTS}
  "GLEANER_${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} {\n    global:\n        ${map}\n    local:\n        *;\n};\n")
