# cmake --install BUILD --prefix P: library, command, headers, package files, manual pages, completion, documents.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gleaner)

# One export per form of the library: who links the shared one needs none of its dependencies.
install(TARGETS gleaner_shared EXPORT gleaner-shared
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS gleaner EXPORT gleaner-static
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT gleaner-shared NAMESPACE gleaner:: DESTINATION ${package_dir})
install(EXPORT gleaner-static NAMESPACE gleaner:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/gleaner-config.cmake.in
  ${PROJECT_BINARY_DIR}/generated/gleaner-config.cmake INSTALL_DESTINATION ${package_dir})
# before 1.0 a minor version may change the API
write_basic_package_version_file(${PROJECT_BINARY_DIR}/generated/gleaner-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/generated/gleaner-config.cmake
  ${PROJECT_BINARY_DIR}/generated/gleaner-config-version.cmake DESTINATION ${package_dir})

# The paths in gleaner.pc are relative to where it lies, so that the folder may be moved.
if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR})
  set(pc_prefix ${CMAKE_INSTALL_PREFIX})
else()
  file(RELATIVE_PATH up /x/${CMAKE_INSTALL_LIBDIR}/pkgconfig /x)
  string(REGEX REPLACE "/$" "" up "${up}")
  set(pc_prefix "\${pcfiledir}/${up}")
endif()
foreach(kind LIB INCLUDE)
  if(IS_ABSOLUTE ${CMAKE_INSTALL_${kind}DIR})
    set(pc_${kind} ${CMAKE_INSTALL_${kind}DIR})
  else()
    set(pc_${kind} "\${prefix}/${CMAKE_INSTALL_${kind}DIR}")
  endif()
endforeach()
set(pc_private -ldnnl ${OpenMP_C_FLAGS} ${MPI_C_LINK_FLAGS} ${MPI_C_LIBRARIES} ${HWLOC_LDFLAGS} ${YAML_LDFLAGS}
  ${JANSSON_LDFLAGS} ${XXHASH_LDFLAGS} -lpthread -lm)
string(REPLACE ";" " " pc_private "${pc_private}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/gleaner.pc.in ${PROJECT_BINARY_DIR}/generated/gleaner.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/generated/gleaner.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

foreach(header gleaner.h ${GLN_PUBLIC_HEADERS})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${GLN_PUBLIC_INCLUDE}/gleaner/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/gleaner/${folder})
endforeach()

# The command, and what its table of commands tells: manual pages and completion.
install(TARGETS gleaner_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
add_executable(gleaner_manual ${CMAKE_CURRENT_LIST_DIR}/write_manual.c)
target_link_libraries(gleaner_manual PRIVATE gln_launcher)
set(manual ${PROJECT_BINARY_DIR}/manual)
add_custom_command(OUTPUT ${manual}/stamp
  COMMAND ${CMAKE_COMMAND} -E rm -rf ${manual}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${manual}/man1
  COMMAND ${CMAKE_COMMAND} -E env ASAN_OPTIONS=detect_leaks=0 $<TARGET_FILE:gleaner_manual> ${manual}
  COMMAND ${CMAKE_COMMAND} -E touch ${manual}/stamp
  DEPENDS gleaner_manual COMMENT "Writing manual pages and completion" VERBATIM)
add_custom_target(gleaner_manual_pages ALL DEPENDS ${manual}/stamp)
install(DIRECTORY ${manual}/man1 DESTINATION ${CMAKE_INSTALL_MANDIR})
install(FILES ${manual}/gleaner DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)

install(FILES ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs ${PROJECT_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
