// Readers that turn JavaScript values into C++ ones or throw an error naming the argument, what was expected and what came.
//
// Part of the boundary: addon.cpp uses nothing of a JavaScript value that did not pass through here.
#pragma once

#define NAPI_VERSION 8
#include <napi.h>

#include <cmath>
#include <string>

namespace ingot {

// Largest integer a JavaScript number holds exactly.
inline constexpr int64_t kMaxSafeInteger = (int64_t{1} << 53) - 1;

[[noreturn]] inline void bad_type(Napi::Env env, const std::string& name, const char* expected) {
  throw Napi::TypeError::New(env, name + " must be " + expected);
}

inline Napi::Object to_object(Napi::Env env, Napi::Value value, const std::string& name) {
  if (!value.IsObject() || value.IsFunction()) bad_type(env, name, "an object");
  return value.As<Napi::Object>();
}

inline Napi::Array to_array(Napi::Env env, Napi::Value value, const std::string& name) {
  if (!value.IsArray()) bad_type(env, name, "an array");
  return value.As<Napi::Array>();
}

inline int64_t to_integer(Napi::Env env, Napi::Value value, const std::string& name, int64_t min, int64_t max) {
  if (!value.IsNumber()) bad_type(env, name, "a number");
  const double number = value.As<Napi::Number>().DoubleValue();
  // Compared as doubles first: converting NaN or 1e300 to an integer is undefined.
  if (!(number >= static_cast<double>(min) && number <= static_cast<double>(max)) || number != std::floor(number)) {
    throw Napi::RangeError::New(env, name + " must be a whole number from " + std::to_string(min) + " to " + std::to_string(max) + ", found " +
                                         value.ToString().Utf8Value());
  }
  return static_cast<int64_t>(number);
}

inline std::string to_string(Napi::Env env, Napi::Value value, const std::string& name) {
  if (!value.IsString()) bad_type(env, name, "a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.empty() || text.find('\0') != std::string::npos) bad_type(env, name, "a string that is not empty and holds no NUL");
  return text;
}

inline bool to_boolean(Napi::Env env, Napi::Value value, const std::string& name) {
  if (!value.IsBoolean()) bad_type(env, name, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

inline Napi::TypedArray to_typed_array(Napi::Env env, Napi::Value value, const std::string& name, const char* expected) {
  if (!value.IsTypedArray()) bad_type(env, name, expected);
  return value.As<Napi::TypedArray>();
}

inline char* data_of(Napi::TypedArray array) {
  char* base = static_cast<char*>(array.ArrayBuffer().Data());
  return base == nullptr ? nullptr : base + array.ByteOffset();  // an empty buffer may have no memory
}

}  // namespace ingot
