# Writes the page as bytes of a C++ source: cmake -Dpage=... -Dsource=... -P EmbedPage.cmake
file(READ ${page} hex HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes "${bytes}")
file(WRITE ${source}
  "#include \"server/page.h\"\n"
  "namespace tenfold {\n"
  "namespace {\nconstexpr unsigned char kPage[] = {\n${bytes}};\n}\n"
  "std::string_view chat_page() {\n"
  "  return {reinterpret_cast<const char*>(kPage), sizeof kPage};\n}\n}\n")
